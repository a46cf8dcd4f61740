"""How every claim is measured. The product never imports it."""
