"""The clipping engine: per-sample clipped gradients of any model, exactly."""
