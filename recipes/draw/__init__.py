"""What every system that draws shares: options, prompts, control files, painters, the drawing stage."""
