"""What things are: values, schemas, topics and the wire format. Pure, and known to all other packages."""
