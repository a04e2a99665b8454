"""TGNet: task-guided attention and task-guided residual blocks (Wu, Pang, Sowmya, ISBI 2022)."""
