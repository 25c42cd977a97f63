"""WebShop as a web page: a person shops, and sees what an agent would have to send."""
