export default (event: object) => event;
