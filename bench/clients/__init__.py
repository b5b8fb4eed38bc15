"""What is measured, each in a process of its own; these run in the project's own interpreter."""

# The line that asks clients/ours.py for the feature store; any other line is a month.
FEATURES = "features"
