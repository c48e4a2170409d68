//! Products, attention and element-wise loops on plain slices, one instruction set a file.
