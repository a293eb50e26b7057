"""Speech recognition (`recognizers`) and word error rates (`wer`)."""
