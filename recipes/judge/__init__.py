"""The judge of the built-in world `figures`: what pictures of it are measured with."""
