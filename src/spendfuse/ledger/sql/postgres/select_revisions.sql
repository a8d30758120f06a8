-- What processes read again once its number has grown.
SELECT what, number FROM revision;
