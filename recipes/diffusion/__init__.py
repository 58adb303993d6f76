"""What the systems that diffuse share: worlds, autoencoders, text encoders, caches."""
