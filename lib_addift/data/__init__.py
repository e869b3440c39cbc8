"""Pictures as people have them, made into pairs of arrays that can be trained on, and checked."""
