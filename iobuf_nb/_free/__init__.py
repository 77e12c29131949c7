"""Lock-free words, without memory or Python objects: the queue, deques, owners, and the free list made of them."""
