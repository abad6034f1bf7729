"""What benchmarks of many labelers at once are made of: a full store, the servers, and the crowd that works on them."""
