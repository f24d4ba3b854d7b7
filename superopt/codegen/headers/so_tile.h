// Register-blocked contraction: drivers and helpers of generated CPU code.
