"""What FILIP and Wukong share: settings, pairs from shards, objective, built-in world, alignment pictures, export."""
