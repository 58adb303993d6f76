"""What systems share that edit pictures: options, requests from pictures and shards, the stage, what is written."""
