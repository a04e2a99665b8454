"""MA-MTLN: a pyramid with attention and task-aware branches (Zhang Y. et al., IEEE TMI 2021)."""
