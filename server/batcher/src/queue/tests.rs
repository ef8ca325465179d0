//! Facts about queue.
