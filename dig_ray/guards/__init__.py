"""What keeps a run from harm: secrets hidden, signals heard, offspring ended, waits kept, and never a mute minute."""
