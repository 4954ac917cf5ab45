//! What the embedded programs are, to be told to whoever compares builds.

/// Each of them: the processors that it is for, and its SHA-256.
pub const GUESTS: [(&str, &str); 2] =
    [("x86-64-v2", env!("INSTAR_GUEST_V2_SHA256")), ("x86-64-v3", env!("INSTAR_GUEST_V3_SHA256"))];

/// They were built for development: one for all processors, and slower.
pub const QUICK: bool = !env!("INSTAR_GUEST_QUICK").is_empty();
