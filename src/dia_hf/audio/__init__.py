"""Audio files (`io`), changes of a waveform (`effects`), streams (`streams`, `encoders`), neural codec (`codec`)."""
