"""ACSNet: gates, deformable attention and an answer from deep features (He et al., 2024)."""
