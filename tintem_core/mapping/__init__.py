"""From the teacher's latent space to the student's width, angles kept."""
