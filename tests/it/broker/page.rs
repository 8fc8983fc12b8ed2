//! The page about messages.
