//! The run file.
