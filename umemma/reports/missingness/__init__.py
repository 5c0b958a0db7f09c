"""What is left under a protocol of missingness, and by the severity of a corruption."""
