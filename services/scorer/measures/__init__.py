"""What is measured in a photograph: one module a dimension, and the planes, subject and lines that they share."""
