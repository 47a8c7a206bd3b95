"""The engine `compiled`: data stay on the card, and an epoch, of one network or of hundreds of heads, is one program.

Only this room imports JAX, under Keras's backend of that name.
"""
