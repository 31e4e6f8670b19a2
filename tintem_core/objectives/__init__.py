"""What a student is asked for in training, one small strategy each.

An objective owns what lives only during the training (a head, a mapping that is still being
fitted) and says what the loss is. A new one is a file here and a line of :mod:`kinds`.
"""
