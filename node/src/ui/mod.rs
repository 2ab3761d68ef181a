//! What people see: words, tables, bars, and the lines of a node that runs. It makes them from [`crate::report`] and from
//! events, asks nobody and decides nothing.

pub(crate) mod bar;
pub(crate) mod console;
pub(crate) mod log;
pub(crate) mod screen;
pub(crate) mod status;
pub(crate) mod table;
pub(crate) mod words;
