"""Audio files (`io`), changes of a waveform (`effects`), and the neural codec (`codec`)."""
