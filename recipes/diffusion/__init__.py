"""What the systems that diffuse share: pictures in and out, worlds, autoencoders, text encoders, caches."""
