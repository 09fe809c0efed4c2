"""Bounds on epsilon: accountants, calibration of the noise, and the privacy statement."""
