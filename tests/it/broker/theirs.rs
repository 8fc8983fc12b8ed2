//! Clients and brokers that others wrote.
