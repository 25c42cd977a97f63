"""What imports, exports, compares or shows a shop. No part of the environment imports it."""
