"""Accuracy and calibration, as functions of logits and labels."""
