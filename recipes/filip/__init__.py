"""FILIP: fine-grained interactive language-image pre-training, and CLIP as its baseline."""
