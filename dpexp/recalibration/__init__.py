"""Temperature and Platt scaling of trained models, private or marked as not."""
