//! What an operator is told of what a group says.
