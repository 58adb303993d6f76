"""Pretrained experts behind small protocols: detect, segment, caption, inpaint, pose, edges, parse."""
