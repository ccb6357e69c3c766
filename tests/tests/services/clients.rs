//! What a guest gets and sees of it.
