"""Pretrained experts by name: segment, inpaint, edges, pose, parse."""
