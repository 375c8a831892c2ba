"""What every data set and every task reads: images, colours, loading order, transforms, the drawn world of `shapes`."""
