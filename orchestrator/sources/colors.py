"""Colours of curves, in the report's figures and in MLflow."""

INK = "#1b2733"
"""Colour of text, and of the dense network."""
MUTED = "#66727f"
"""Colour of labels, and of the score without the image."""
HUES = ("#0a6fb3", "#d9610f", "#0b9070", "#b85a94", "#8a6d00", "#4aa3d8", "#7a4fb5", "#5e6b78")
"""After Okabe and Ito (2008), darkened to a contrast of 3:1 against white; lighter in dark mode."""
