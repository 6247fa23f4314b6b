// The whole event, as it comes.
export default (event: object) => event;
