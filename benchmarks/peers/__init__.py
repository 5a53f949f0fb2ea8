"""What others do with the same events: one module a peer, whose functions give one case each.

A peer whose server or client is not installed gives `{"case", "absent": reason}`. None may know what we measured.
"""
