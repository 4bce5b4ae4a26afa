//! Which step waits for which, and how long the longest way to the end is.
