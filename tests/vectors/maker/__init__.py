"""Makes the vectors in the folder above, and the parts of PROTOCOL.md that follow from the code."""
