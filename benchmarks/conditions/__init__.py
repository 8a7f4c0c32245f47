"""What a learned channel is worth beside a told, a cut, a disturbed and an otherwise learned one."""
