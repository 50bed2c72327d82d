//! The one door to files: a real directory, or a simulated disk that forgets what was not synced.
