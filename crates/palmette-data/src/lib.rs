//! Click logs: schema, streaming ingestion, columnar shards, batches
