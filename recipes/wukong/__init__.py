"""Wukong: Chinese image-text contrast with a locked image tower and reduced tokens."""
