"""How a model is trained, sampled, edited and measured: one folder a system, YAML cards beside the code."""
