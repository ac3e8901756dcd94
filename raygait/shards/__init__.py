"""The contract on disk: one row a sequence, in Parquet files that say their format version."""
